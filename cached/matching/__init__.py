"""ClassAds of sets and nodes, and whether both sides agree."""
