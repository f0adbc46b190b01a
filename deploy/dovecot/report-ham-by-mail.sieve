# As report-ham.sieve, but by mail to a report address (RFC 5965). Put your address in.
require ["vnd.dovecot.report", "imapsieve", "environment", "variables"];

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

report "not-spam" "A user has taken this message out of Junk." "ham@example.org";
