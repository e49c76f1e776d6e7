"""How training is measured: its loader, layouts, checkpoints and ledger, beside what people use today."""
