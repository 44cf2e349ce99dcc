"""Where notices come from, each source behind the same contract: what it took in, it has put on the queue."""
