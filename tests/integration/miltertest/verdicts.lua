-- Four messages on one connection: spam with forged headers, ham, one that is aborted, ham.
-- Called with -D address=inet:PORT@127.0.0.1

local function check(ok, what)
	if not ok then
		mt.echo(what)
		error(what)
	end
end

local function must(failure)
	check(failure == nil, failure)
end

local conn = mt.connect(address)
check(conn ~= nil, "no connection")
must(mt.negotiate(conn, nil, nil, nil))
check(mt.test_action(conn, SMFIF_ADDHDRS), "does not ask to add headers")
check(mt.test_action(conn, SMFIF_CHGHDRS), "does not ask to change headers")
check(not mt.test_action(conn, SMFIF_CHGBODY), "asks to change bodies")
must(mt.conninfo(conn, "client.example", "192.0.2.7"))
must(mt.helo(conn, "client.example"))

local function envelope(id)
	must(mt.macro(conn, SMFIC_MAIL, "i", id))
	must(mt.mailfrom(conn, "<alice@example.org>"))
	must(mt.rcptto(conn, "<bob@test.example>"))
end

local function message(id, word)
	envelope(id)
	must(mt.header(conn, "Subject", "test"))
	must(mt.header(conn, "X-Spam-Flag", "NO"))
	must(mt.header(conn, "X-Spam-Flag", "NO"))
	-- No mt.eoh: it was negotiated away, the body says the same.
	must(mt.bodystring(conn, word .. "\r\n"))
	must(mt.eom(conn))
end

message("4First", "XSPAM")
check(mt.getreply(conn) == SMFIR_ACCEPT, "spam was not accepted")
check(mt.eom_check(conn, MT_HDRDELETE, "X-Spam-Flag"), "forged header was not deleted")
check(mt.eom_check(conn, MT_HDRINSERT, "X-Spam-Flag", " YES")
	or mt.eom_check(conn, MT_HDRINSERT, "X-Spam-Flag", "YES"), "spam was not flagged")

message("4Second", "nothing")
check(mt.getreply(conn) == SMFIR_ACCEPT, "ham was not accepted")
check(not mt.eom_check(conn, MT_HDRINSERT, "X-Spam-Flag"), "the flag leaked to the next message")
check(mt.eom_check(conn, MT_HDRINSERT, "X-Spam-Status"), "ham has no status")

envelope("4Third")
must(mt.header(conn, "Subject", "aborted"))
must(mt.abort(conn))

message("4Fourth", "nothing")
check(mt.getreply(conn) == SMFIR_ACCEPT, "ham after an abort was not accepted")
check(not mt.eom_check(conn, MT_HDRINSERT, "X-Spam-Flag"), "ham after an abort was flagged")
mt.disconnect(conn)
