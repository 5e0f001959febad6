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
