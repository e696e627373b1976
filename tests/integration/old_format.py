"""``headrace`` as a version whose rows have another format; run in a process of its own."""

from stream import history

history.FORMAT -= 1  # before anything reads it: a state's name, and what is live, depend on it

from services.cli import main  # noqa: E402

main()
