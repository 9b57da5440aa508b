"""What a study will cost, before it is spent: `trimtab plan`."""
