"""The control plane: findings, budgets and rules in, policy document out; the ledger that no budget overspends."""
