"""Who someone is: SPIFFE IDs, trust bundles, certificates, and the judgement of a peer. Decides only."""
