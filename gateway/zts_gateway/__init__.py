"""The laptop and Linux side: the `zts` command and its client."""
