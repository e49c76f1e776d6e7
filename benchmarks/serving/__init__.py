"""What serving costs, beside other servers of the same model, and what it loses when things die or change."""
