"""May this connection pass: Istio's security policies, read, decided and explained. Pure: facts in, a decision out."""
