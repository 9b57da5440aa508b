"""Instructions that a program can check, as IFEval has them: whether they hold, and prompts with more of them."""
