"""The subcommands of `ingle`. None imports weights, torch or the server before it runs."""
