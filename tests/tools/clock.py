"""A clock for tests of what is timed."""


class Clock:
    """Time that passes only during ``work``."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def work(self, name, *seconds):
        """Return a function that takes the next of ``seconds`` at each call and notes its name."""
        left = list(seconds)

        def act():
            self.calls.append(name)
            self.now += left.pop(0)
        return act
