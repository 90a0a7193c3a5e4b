// Keeps the filter controls and the URL in step, in the browser alone. The URL is the truth: a control that already
// says what the URL says writes nothing, or the Back button would be caught in a loop.
(() => {
  const DEFAULTS = { range: "24h", tz: "UTC", cmp: "1" };
  const none = () => window.dash_clientside.no_update;
  const query = () => new URLSearchParams(window.location.search);
  const sameSet = (a, b) => JSON.stringify([...(a || [])].sort()) === JSON.stringify([...b].sort());

  const one = (params, key, value) => {
    if (value === null || value === undefined || value === (params.get(key) || DEFAULTS[key])) return false;
    params.delete(key);
    if (value !== DEFAULTS[key]) params.set(key, value);
    return true;
  };
  const many = (params, key, values) => {
    if (sameSet(values, params.getAll(key))) return false;
    params.delete(key);
    (values || []).forEach((value) => params.append(key, value));
    return true;
  };
  const counted = (chosen, noun) => (chosen.length ? `${chosen.length} ${noun}${chosen.length > 1 ? "s" : ""}` : `All ${noun}s`);

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    farthing: {
      write_url: (range, teams, models, compare, zone) => {
        const params = query();
        const changes = {
          "f-range": () => one(params, "range", range),
          "f-team": () => many(params, "team", teams),
          "f-model": () => many(params, "model", models),
          "f-cmp": () => one(params, "cmp", compare ? "1" : "0"),
          "f-tz": () => one(params, "tz", zone),
        };
        const change = changes[window.dash_clientside.callback_context.triggered_id];
        if (!change || !change()) return none();
        const search = params.toString();
        return search ? `?${search}` : "";
      },
      read_url: (search) => {
        const params = new URLSearchParams(search || "");
        const get = (key) => params.get(key) || DEFAULTS[key];
        const teams = params.getAll("team");
        const models = params.getAll("model");
        return [
          get("range"), teams, models, get("cmp") === "1", get("tz"),
          counted(teams, "team"), counted(models, "model"), `/${search || ""}`,
          search ? "chips some" : "chips",
        ];
      },
      pause: (clicks, interval) => {
        const paused = clicks % 2 === 1;
        return paused
          ? [true, "paused", "ic ic-play", "dot off"]
          : [false, `every ${interval / 1000} s`, "ic ic-pause", "dot"];
      },
    },
  });
})();
