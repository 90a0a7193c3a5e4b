-- Whether a row's response id tells of no answer that another row may tell of too: an application's own cache had it, or
-- it is too short to be one of its kind. (Ollama draws chatcmpl-0 to chatcmpl-998; providers' have 20 characters and more.)
length(response_id) < 16 OR (cache_hit != '' AND scope != 'farthing.proxy')
