"""Papers and access proposals. Above report/ and study/: a request needs a study's plan."""
