-- An embedded store merges one thing at a time, so the longest merge is how long new parts wait for theirs: a merge of
-- parts of 4 GiB together takes a few minutes, one of a busy month's would take an hour, and inserts stop at 3,000 parts.
ALTER TABLE otel_traces MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 4294967296;
ALTER TABLE requests MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 4294967296
