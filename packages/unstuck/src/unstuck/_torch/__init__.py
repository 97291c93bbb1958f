"""Every use of PyTorch's private parts."""
