"""TIM: searched, meta-initialised and task-guided fusion networks (arXiv 2305.15862)."""
