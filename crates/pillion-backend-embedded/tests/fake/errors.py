class PillionError(Exception):
    def __init__(self, code, message, *, remedy=None, param=None, retryable=False):
        super().__init__(message)
        self.code, self.remedy, self.param, self.retryable = code, remedy, param, retryable
