"""
A seeded simulator of a shop: its catalogue, its shoppers, their history and their live visits.

It exists so that the project can be tried without anybody's data. **No figure about the quality of
recommendations may come from it**: it only knows what it was told about people.

The process, in order of time:

1. *Catalogue*: fifty product types in ten departments; each item has a brand, a colour or a size, a
   price around its type's, and an appeal drawn from a log-normal distribution, so that few items
   get most of the attention. A tenth of the items arrive during the simulated time.
2. *Shoppers* have a **taste** that stays: three to six product types with gamma weights, a price
   level, and three brands they trust. How often they come is log-normal: many come once.
3. *Trends* come and go: for some days everybody wants a product type up to five times as much.
4. A *session* has an **intent**, a product type drawn from taste and trends. Step by step the
   shopper stays with it, goes to a type that belongs with it (a tent, then a lantern), follows
   taste elsewhere, or goes back to something seen before. Within a type, four items come into view
   by their appeal and the one that fits price level and trusted brands best is opened.
5. The *funnel*: search and impressions before, views and clicks, then cart, wish list or dislike by
   fit; at the end checkout and purchase of the whole cart under one order, sometimes a removal,
   rarely a refund days later. What was bought is not looked at again, consumables excepted.
6. A live shopper may also look at the slate that was pushed, from the top, and open an item of it
   that suits the intent or the taste; the event then carries the slate's ``recommendation_id``.

Nothing in here is a sequence model, counts co-visits, or knows of a ranker.
"""
