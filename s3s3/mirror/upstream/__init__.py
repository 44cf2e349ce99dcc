"""Any HTTP(S) server as a source of copies."""
