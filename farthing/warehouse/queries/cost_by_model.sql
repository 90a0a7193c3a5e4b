-- Which models cost most over [since, until), dearest first?
{{cost_by(model)}}
