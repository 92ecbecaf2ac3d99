"""The relay: joins two legs and copies bytes it cannot read; hosts the control plane."""
