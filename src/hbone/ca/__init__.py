"""The certificate authority: requests, what is signed for them, and the CA's own material. Decides only."""
