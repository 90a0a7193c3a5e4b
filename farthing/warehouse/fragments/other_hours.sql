-- Rows of the part of the period that no rolled hour answers: its ragged head, and the hours that are still open.
(
    (started_at >= {since:DateTime64(3)} AND started_at < {rolled_since:DateTime64(3)})
    OR (started_at >= {rolled_until:DateTime64(3)} AND started_at < {until:DateTime64(3)})
)
