"""`python -m trimtab`, and with several processes `torchrun --nproc_per_node 2 -m trimtab`."""

from trimtab.cli import main

if __name__ == "__main__":
    main()
