"""The few OpenSSL functions that pyOpenSSL binds but does not offer. All private access is in this file.

Wanted for two things: reads and writes on our own memory (pyOpenSSL's `recv_into` allocates and copies: 11 % more CPU
for bulk), and a verify callback that may choose the alert. `NATIVE` says whether the binding has all of them;
`hbone.net.tls` works without, only slower and with a coarser alert.
"""

import warnings
from collections.abc import Callable
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL, crypto
from OpenSSL import _util as _private


def _binding(name: str) -> Any:
    """Generated and private, so untyped; None in a pyOpenSSL that has dropped it."""
    return getattr(_private, name, None)


lib: Final = _binding("lib")
ffi: Final = _binding("ffi")

_NEEDED = (
    "SSL_read",
    "SSL_write",
    "SSL_do_handshake",
    "SSL_get_error",
    "ERR_get_error",
    "ERR_clear_error",
    "ERR_reason_error_string",
    "SSL_CTX_set_verify",
    "SSL_CTX_set_alpn_select_cb",
    "SSL_get_ex_data_X509_STORE_CTX_idx",
    "X509_STORE_CTX_get_ex_data",
    "X509_STORE_CTX_get_error",
    "X509_STORE_CTX_set_error",
    "X509_STORE_CTX_get1_chain",
    "X509_free",
    "sk_X509_num",
    "sk_X509_value",
    "sk_X509_free",
    "i2d_X509_bio",
    "BIO_new",
    "BIO_s_mem",
    "BIO_get_mem_data",
    "BIO_free",
)


def _complete() -> bool:
    return ffi is not None and all(hasattr(lib, name) for name in _NEEDED)


NATIVE: Final = _complete()

WANT_READ, WANT_WRITE, SYSCALL, ZERO_RETURN = 2, 3, 5, 6  # SSL_get_error(3)
SYSTEM_ERROR = 0x8000_0000  # ERR_SYSTEM_FLAG in err.h; the other bits are errno
PARTIAL_WRITE = 0x1  # SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets and does not export
NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN; else a chain of the leaf alone costs 0.1 ms a handshake

ACCEPT, REFUSE = 1, 0
# x509_vfy.h: what the judge decides instead of OpenSSL. 2, 18-21, 27: no anchor, since OpenSSL's own store is
# empty on purpose; 9, 10: not valid yet, or any more, since only the judge is handed the clock.
_FOR_THE_JUDGE = frozenset({2, 9, 10, 18, 19, 20, 21, 27})
# An alert for the peer → the verify error that OpenSSL turns into it (ssl_x509err2alert in statem_lib.c).
_ERROR_FOR_ALERT = {42: 28, 43: 26, 44: 23, 45: 10, 46: 47, 48: 20}
_UNLISTED = 47  # X509_V_ERR_PERMITTED_VIOLATION: certificate_unknown


def pointer_of(connection: SSL.Connection) -> Any:
    """The SSL* of a connection; valid while the connection lives."""
    return connection._ssl  # pyright: ignore[reportPrivateUsage] # see the module's docstring


def address_of(pointer: Any) -> int:
    """An SSL* as a number, to find it again in a callback."""
    return int(ffi.cast("uintptr_t", pointer))


def drain_reasons() -> list[str]:
    """This thread's OpenSSL errors, oldest first, in words; the queue is empty afterwards, as the next call needs.

    Without those of the operating system, which errno tells too: a failed write leaves one, a failed read does not.
    """
    reasons: list[str] = []
    while code := lib.ERR_get_error():
        if code & SYSTEM_ERROR:
            continue
        text = lib.ERR_reason_error_string(code)
        reasons.append(ffi.string(text).decode() if text != ffi.NULL else f"error {code:#x}")
    return reasons


def _silent(_kind: object, _error: object, _traceback: object) -> None:
    """For `onerror`: the callback's `error` value says it all; without this cffi prints a traceback."""


class Presented:
    """The certificates that a peer presented: the leaf, and those of the others that lead up from it."""

    def __init__(self, store_context: Any) -> None:
        """Good for as long as the verify callback runs."""
        self._store_context = store_context

    def der(self) -> bytes:
        """Their exact bytes, one after another. Raises ValueError when OpenSSL cannot write them."""
        stack = lib.X509_STORE_CTX_get1_chain(self._store_context)
        memory = lib.BIO_new(lib.BIO_s_mem())
        whole = True
        try:
            for index in range(lib.sk_X509_num(stack)):
                certificate = lib.sk_X509_value(stack, index)
                whole = lib.i2d_X509_bio(memory, certificate) == 1 and whole
                lib.X509_free(certificate)  # the stack holds a reference of its own to each
            if not whole:  # bytes that lack a certificate must not be taken for the chain's
                raise ValueError("the certificates cannot be written")
            start = ffi.new("char **")
            length = lib.BIO_get_mem_data(memory, start)
            return bytes(ffi.buffer(start[0], length))
        finally:
            lib.BIO_free(memory)
            lib.sk_X509_free(stack)

    def certificates(self) -> list[x509.Certificate]:
        """Parsed. Raises ValueError and others for what `cryptography` cannot read."""
        stack = lib.X509_STORE_CTX_get1_chain(self._store_context)
        try:
            raw = [lib.sk_X509_value(stack, index) for index in range(lib.sk_X509_num(stack))]
            # each owns its reference from here on
            owned = [crypto.X509._from_raw_x509_ptr(pointer) for pointer in raw]  # pyright: ignore[reportPrivateUsage]
        finally:
            lib.sk_X509_free(stack)
        with warnings.catch_warnings():
            # a serial number below 1, say: a peer must not be able to write warnings to our standard error
            warnings.simplefilter("error")
            return [certificate.to_cryptography() for certificate in owned]


Judge = Callable[[int, Presented, int], int]
"""(SSL* as a number, the presented chain, OpenSSL's own finding or 0) → 0 to accept, else the alert to refuse with."""


def set_judge(context: SSL.Context, judge: Judge, mode: int) -> object:
    """Have `judge` decide on each peer's certificate. Returns what must be kept alive as long as `context`.

    An exception in `judge` refuses the peer.
    """

    def on_verify(_ok: int, store_context: Any) -> int:
        index = lib.SSL_get_ex_data_X509_STORE_CTX_idx()
        ssl = address_of(lib.X509_STORE_CTX_get_ex_data(store_context, index))
        error = lib.X509_STORE_CTX_get_error(store_context)
        finding = 0 if error in _FOR_THE_JUDGE else error
        alert = judge(ssl, Presented(store_context), finding)
        if alert == 0:
            return ACCEPT
        lib.X509_STORE_CTX_set_error(store_context, _ERROR_FOR_ALERT.get(alert, _UNLISTED))
        return REFUSE

    callback = ffi.callback("int (*)(int, X509_STORE_CTX *)", on_verify, error=REFUSE, onerror=_silent)
    lib.SSL_CTX_set_verify(_raw(context), mode, callback)
    return callback


def verify_text(error: int) -> str:
    """OpenSSL's words for a verify error."""
    return str(ffi.string(lib.X509_verify_cert_error_string(error)).decode())


def require_h2(context: SSL.Context) -> object:
    """Server side: select h2, or end the handshake with no_application_protocol. Returns what to keep alive.

    pyOpenSSL's own callback could refuse only by raising, and would keep each such exception.
    """
    chosen = ffi.new("unsigned char[]", b"h2")

    def on_alpn(_ssl: Any, out: Any, out_length: Any, offered: Any, length: int, _arg: Any) -> int:
        names = bytes(ffi.buffer(offered, length))
        while names:
            if names[1 : 1 + names[0]] == b"h2":
                out[0], out_length[0] = chosen, 2
                return int(lib.SSL_TLSEXT_ERR_OK)
            names = names[1 + names[0] :]
        return int(lib.SSL_TLSEXT_ERR_ALERT_FATAL)

    callback = ffi.callback(
        "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)",
        on_alpn,
        error=lib.SSL_TLSEXT_ERR_ALERT_FATAL,
        onerror=_silent,
    )
    lib.SSL_CTX_set_alpn_select_cb(_raw(context), callback, ffi.NULL)
    return (callback, chosen)


def set_groups(context: SSL.Context, groups: str) -> bool:
    """Limit the key exchange to these groups ("X25519MLKEM768:X25519"); False where that is not possible."""
    setter = getattr(lib, "SSL_CTX_set1_curves_list", None)
    if setter is None or setter(_raw(context), groups.encode()) != 1:
        if setter is not None:
            lib.ERR_clear_error()
        return False
    return True


def _raw(context: SSL.Context) -> Any:
    return context._context  # pyright: ignore[reportPrivateUsage] # see the module's docstring
