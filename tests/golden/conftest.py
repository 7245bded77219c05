"""The scripts here need torch, which is no dependency of the project: pytest leaves them alone."""

collect_ignore_glob = ["make_*.py"]
