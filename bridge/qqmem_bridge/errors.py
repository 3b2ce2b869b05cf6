"""What can go wrong, and what it means for the one who called.

BridgeError           one sentence for the operator, with the way out; ends the program
├── SettingsError     the settings file, the environment or a flag is wrong
└── Refused           the other end does not let us in, and will not the next time either
CallError             a call to QQ's side
├── NotConnected      nothing has left this process: it may be done again
├── CallLost          it was sent and the answer never came: whether it was done is unknown
└── CallFailed        the answer says no; `ambiguous` if it may have been done all the same
"""

from __future__ import annotations


class BridgeError(Exception):
    """One sentence for the operator, with the way out."""


class SettingsError(BridgeError):
    """The settings file, the environment or a flag is wrong."""


class Refused(BridgeError):
    """The other end does not let us in, and will not the next time either."""


class CallError(Exception):
    """A call to QQ's side did not succeed."""


class NotConnected(CallError):
    """Nothing has left this process."""


class CallLost(CallError):
    """The call was sent, and its answer never came."""


class CallFailed(CallError):
    """The answer says no.

    retcode: 1200 for most failures, 1400 for bad parameters, 1404 for an unknown action.
    message: as the other side worded it; never shown to people in a chat.
    """

    def __init__(self, action: str, retcode: int, message: str) -> None:
        super().__init__(f"{action}: [{retcode}] {message.splitlines()[0] if message else ''}")
        self.retcode = retcode
        self.message = message

    @property
    def ambiguous(self) -> bool:
        """A send that timed out inside QQ may have arrived."""
        return self.message.startswith("Timeout:")

    def result(self, code: int) -> bool:
        """Whether QQ's own result code, which stands inside the message, is this one."""
        return f'"result": {code}' in self.message or f'"result":{code}' in self.message
