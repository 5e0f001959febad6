"""Models as users write them."""

import pillion


class Echo(pillion.Model):
    """Answers with its inputs, but for two words."""

    def forward(self, batch):
        if "raise" in batch:
            raise ValueError("asked to")
        return [KeyError(item) if item == "error" else item for item in batch]


class Broken(pillion.Model):
    """Cannot be loaded."""

    def load(self, context):
        raise ValueError("no weights")


class Keeper(pillion.Model):
    """Answers with its arrays, keeps views of some, and looks whether any of them has changed."""

    def load(self, context):
        self.kept = []

    def forward(self, batch):
        (array,) = batch
        if len(self.kept) < 20:
            self.kept.append((array[2:], memoryview(array)[::2], int(array[0])))
        for view, memory, value in self.kept:
            if (view != value).any() or memory[-1] != value:
                raise ValueError("a view has changed")
        return [{"same": array, "strided": array[::2]}]
