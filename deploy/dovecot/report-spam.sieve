# A user has put a message into Junk: report it as spam. Run by imapsieve, see 90-spamguard.conf.
require ["vnd.dovecot.pipe", "copy", "imapsieve", "environment", "variables"];

if environment :matches "imap.user" "*" {
  set "user" "${1}";
}

pipe :copy :try "spamguard-report" ["spam", "${user}"];
