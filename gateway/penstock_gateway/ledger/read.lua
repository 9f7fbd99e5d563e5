-- How far budgets are used, and what was spent without one. Works on a server that takes no writes.
-- KEYS: from 5 on windows. ask: budgets (w: key, s: scope, f: field of HELD or none).
-- Reply: epoch, then spent and held of each.

open_books()
if is_writable then
  sweep()
end
local reply = budgets_now()
table.insert(reply, 1, epoch)
return reply
