"""`make bench-reliability`: what is lost, done twice or let in when everything is killed, forged and flooded."""
