"""What operators ask and do, for the commands, the API and the status page."""
