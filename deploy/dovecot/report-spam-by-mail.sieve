# As report-spam.sieve, but by mail to a report address (RFC 5965). Put your address in.
require ["vnd.dovecot.report", "imapsieve"];

report "abuse" "A user has put this message into Junk." "spam@example.org";
