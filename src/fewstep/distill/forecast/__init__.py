"""What a run would take, before it starts: ``fewstep distill plan``. The run's own code is rehearsed on tensors without content."""
