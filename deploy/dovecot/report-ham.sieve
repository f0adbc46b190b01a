# A user has taken a message out of Junk: report it as ham, unless he only threw it away.
# Run by imapsieve, see 90-spamguard.conf.
require ["vnd.dovecot.pipe", "copy", "imapsieve", "environment", "variables"];

if environment :matches "imap.mailbox" "*" {
  set "mailbox" "${1}";
}
# Out of Junk into a folder below it, or from one such folder into another, is still junk.
if string :matches "${mailbox}" ["Junk", "Junk/*", "Junk.*"] {
  stop;
}
# Nor is what is thrown away. Sieve cannot ask for the folder's special use (RFC 8579) in Dovecot
# 2.3: add the name that your users' mail programs give it.
if anyof (
  string :contains "${mailbox}" [
    "Trash", "Deleted", "Papierkorb", "Gelöscht", "Corbeille", "supprimés", "Papelera",
    "eliminad", "eliminata", "Lixeira", "Excluíd", "Cestino", "Prullenbak", "Verwijderd",
    "Papperskorg", "Papirkurv", "Papirkorg", "Roskakori", "Корзин", "Удален", "Кошик",
    "Απορρίμματα", "אשפה", "المهملات", "ごみ箱", "垃圾桶", "已删除", "휴지통"
  ],
  string :is "${mailbox}" ["Bin", "Kosz", "Koš", "Kuka", "Coș", "Çöp"]
) {
  stop;
}

if environment :matches "imap.user" "*" {
  set "user" "${1}";
}

pipe :copy :try "spamguard-report" ["ham", "${user}"];
