"""DeFusion: what two pictures share and what each shows alone, learned from single photographs."""
