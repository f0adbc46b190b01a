-- Spam is refused with our words, or held: every packet is answered, since no flag is offered.
-- Called with -D address=inet:PORT@127.0.0.1 -D kind=reject|hold

local function fail(what)
	mt.echo(what)
	error(what)
end

local conn = mt.connect(address)
if conn == nil then fail("no connection") end
local failure = mt.negotiate(conn, 2, SMFIF_ADDHDRS + SMFIF_CHGHDRS, 0)
if failure ~= nil then fail(failure) end

local function must(wrong)
	if wrong ~= nil then fail(wrong) end
	if mt.getreply(conn) ~= SMFIR_CONTINUE then fail("expected to continue") end
end

must(mt.conninfo(conn, "client.example", "192.0.2.7"))
must(mt.helo(conn, "client.example"))
must(mt.mailfrom(conn, "<alice@example.org>", "SIZE=100"))
must(mt.rcptto(conn, "<bob@test.example>"))
must(mt.header(conn, "Subject", "test"))
must(mt.eoh(conn))
must(mt.bodystring(conn, "XSPAM\r\n"))
must(mt.bodyrandom(conn, 200000))
failure = mt.eom(conn)
if failure ~= nil then fail(failure) end
if kind == "hold" then
	if mt.getreply(conn) ~= SMFIR_DISCARD then fail("was not discarded") end
else
	if mt.getreply(conn) ~= SMFIR_REPLYCODE then fail("was not refused") end
end
mt.disconnect(conn)
