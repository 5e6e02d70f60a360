"""What everything else stands on and what knows nothing of distillation: errors, files, seeds, devices, processes."""
