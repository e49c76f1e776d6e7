"""Approvals: what is asked of a person, who may answer, and the signed answer. All of it is entries of the ledger."""
