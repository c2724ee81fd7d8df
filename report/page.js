// Makes a report's page explorable: draws its charts, links them, switches runs, sorts and filters its tables.
// Texts of logs are data here: they go into textContent and into Vega's data, and nowhere else.
'use strict';
(() => {
  const parsed = id => JSON.parse(document.getElementById(id).textContent);
  const page = parsed('page');
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const state = {axis: 'samples', scale: 'linear', smooth: false, low: null, high: null, hidden: []};
  const views = new Map();
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Charts.

  const parameters = figure => ({
    axis: state.axis, hidden: state.hidden, low: state.low, high: state.high, smooth: state.smooth,
    logarithmic: state.scale === 'log', dark: dark.matches, pointing: figure.matches(':hover'),
  });

  // Vega warns of charts whose runs are all switched off; that they are empty is no news.
  const ERRORS = 1;

  // Titles and kinds of scale are no parameters of Vega-Lite: the description is read with what is chosen.
  const chosen = (key, value) => {
    if (key === 'title' && value === page.axes.samples) return page.axes[state.axis];
    return key === 'scale' && value?.type === 'linear' && state.scale === 'log' ? {type: 'log'} : value;
  };

  async function draw(figure) {
    const place = figure.querySelector('.live'), name = place.getAttribute('aria-label');
    const overRun = figure.hasAttribute('data-over-run');
    const spec = JSON.parse(figure.querySelector('script').textContent, overRun ? chosen : undefined);
    for (const [rows, id] of Object.entries(spec.datasets)) spec.datasets[rows] = parsed(id);
    const values = parameters(figure);
    for (const one of spec.params) if (one.name in values) one.value = values[one.name];
    if (spec.facet) spec.columns = Math.max(1, Math.floor(place.clientWidth / 225));
    views.get(figure)?.finalize();
    const {view, finalize} = await vegaEmbed(place, spec, {
      ast: true, actions: false, renderer: 'canvas', defaultStyle: false, logLevel: ERRORS,
      tooltip: {disableDefaultStyle: true, theme: 'page'}, config: page.themes[dark.matches ? 'dark' : 'light'],
    });
    views.set(figure, {view, finalize});
    // Vega has put a name of its own there.
    place.removeAttribute('aria-roledescription');
    place.setAttribute('role', 'img');
    place.setAttribute('aria-label', name);
    figure.classList.add('drawn');
  }

  function linkBrush(figure) {
    figure.addEventListener('pointerup', () => {
      const view = views.get(figure)?.view;
      const range = view && 'brush' in view.getState().signals ? view.signal('brush').x : null;
      if (!range || range[0] === range[1]) return;
      [state.low, state.high] = [Math.min(...range), Math.max(...range)];
      redraw();
    });
    figure.addEventListener('dblclick', () => zoom('whole'));
  }

  // The points that have tooltips are many: a chart makes them once somebody points at it.
  function answerPointer(figure) {
    figure.addEventListener('pointerenter', () => { if (views.has(figure)) set('pointing', true, [views.get(figure)]); });
  }

  // All that are drawn; those out of sight follow when they come into it.
  const redraw = () => Promise.all([...views.keys()].map(draw));

  const set = (name, value, some) => Promise.all(some.map(({view}) => view.signal(name, value).runAsync()));

  function zoom(how) {
    const end = page.ends[state.axis];
    const [low, high] = [state.low ?? 0, state.high ?? end];
    const width = high - low;
    const move = {
      in: [low + width / 4, high - width / 4], out: [low - width / 2, high + width / 2],
      earlier: [low - width / 2, high - width / 2], later: [low + width / 2, high + width / 2],
    }[how];
    if (!move || move[0] <= 0 && move[1] >= end) [state.low, state.high] = [null, null];
    else {
      const shift = Math.max(0, -move[0]) - Math.max(0, move[1] - end);
      [state.low, state.high] = [Math.max(0, move[0] + shift), Math.min(end, move[1] + shift)];
    }
    return redraw();
  }

  async function save(figure, kind) {
    if (!views.has(figure)) await draw(figure);
    const link = document.createElement('a');
    link.href = await views.get(figure).view.toImageURL(kind, 2);
    link.download = `${figure.querySelector('strong').textContent}.${kind}`;
    link.click();
  }

  function addSaving(figure) {
    const title = figure.querySelector('strong').textContent;
    const row = document.createElement('div');
    row.className = 'saving';
    for (const kind of ['png', 'svg']) {
      const button = document.createElement('button');
      Object.assign(button, {type: 'button', textContent: kind.toUpperCase()});
      button.setAttribute('aria-label', `Save ${title} as ${kind.toUpperCase()}`);
      button.addEventListener('click', () => save(figure, kind));
      row.append(button);
    }
    figure.prepend(row);
  }

  // Switches.

  const runs = () => all('.switches input[data-key]');

  function show() {
    for (const box of all('.switches input[data-group]').reverse()) {
      const below = all('input[data-key]', box.closest(box.dataset.result ? 'ul' : '.systems > li'));
      box.checked = below.some(one => one.checked);
      box.indeterminate = box.checked && below.some(one => !one.checked);
    }
    const off = runs().filter(one => !one.checked).map(one => one.dataset.key);
    const on = new Set(runs().filter(one => one.checked).map(one => one.dataset.key.split('.')[0]));
    state.hidden = [...off, ...new Set(off.map(key => key.split('.')[0]).filter(key => !on.has(key)))];
    return set('hidden', state.hidden, [...views.values()]);
  }

  function switched(event) {
    const box = event.target;
    if ('group' in box.dataset) {
      const place = box.closest(box.dataset.result ? 'ul' : '.systems > li');
      for (const one of all('input[data-key]', place)) one.checked = box.checked;
    }
    show();
  }

  // Tables.

  const valueOf = ({className, textContent, firstElementChild}) =>
    className === 'number' ? Number(firstElementChild?.value ?? textContent) : textContent;
  const order = new Intl.Collator('en', {numeric: true});

  function sort(table, column, descending) {
    const body = table.tBodies[0], sign = descending ? -1 : 1;
    const compared = (one, other) => {
      const [a, b] = [valueOf(one.cells[column]), valueOf(other.cells[column])];
      // What is not known comes last, whichever way.
      if ((a === '–') !== (b === '–')) return a === '–' ? 1 : -1;
      return sign * (typeof a === 'number' && typeof b === 'number' ? a - b : order.compare(a, b));
    };
    body.append(...[...body.rows].sort(compared));
    all('th[aria-sort]', table).forEach(head => head.removeAttribute('aria-sort'));
    table.tHead.rows[0].cells[column].setAttribute('aria-sort', descending ? 'descending' : 'ascending');
  }

  function makeSortable(table) {
    if (table.tBodies[0].rows.length < 2) return;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement('button');
      Object.assign(button, {type: 'button', textContent: head.textContent});
      button.addEventListener('click', () => sort(table, column, head.getAttribute('aria-sort') === 'ascending'));
      head.replaceChildren(button);
    });
    if (table.tBodies[0].rows.length > 3) addFilter(table);
  }

  function addFilter(table) {
    const row = document.createElement('div');
    row.className = 'filter';
    const label = document.createElement('label'), input = document.createElement('input'), said = document.createElement('output');
    Object.assign(input, {type: 'search', placeholder: 'GB200 gpus>=512'});
    label.append('Show rows with ', input);
    row.append(label, said);
    input.addEventListener('input', () => { said.textContent = filter(table, input.value); });
    if (table.tBodies[0].rows[0].dataset.key !== undefined && runs().length) {
      const button = document.createElement('button');
      Object.assign(button, {type: 'button', textContent: 'Show only these in the charts'});
      button.addEventListener('click', () => {
        const kept = new Set([...table.tBodies[0].rows].filter(one => !one.hidden).map(one => one.dataset.key));
        for (const box of runs()) box.checked = kept.has(box.dataset.key.split('.')[0]);
        show();
      });
      row.append(button);
    }
    table.parentElement.before(row);
  }

  // Each word has to be in the row, or to hold for the column whose name begins with it: GPUs>=512.
  function filter(table, text) {
    const heads = [...table.tHead.rows[0].cells].map(one => one.textContent.toLowerCase());
    const tests = text.toLowerCase().split(/\s+/).filter(Boolean).map(word => {
      const [, name, sign, number] = word.match(/^(.+?)(<=|>=|<|>|=)(-?[0-9.]+)$/) ?? [];
      const column = name === undefined ? -1 : heads.findIndex(head => head.startsWith(name));
      if (column < 0) return row => row.textContent.toLowerCase().includes(word);
      const holds = {'<': (a, b) => a < b, '>': (a, b) => a > b, '<=': (a, b) => a <= b, '>=': (a, b) => a >= b, '=': (a, b) => a === b}[sign];
      return row => holds(Number(valueOf(row.cells[column])), Number(number));
    });
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) row.hidden = !tests.every(test => test(row));
    return `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
  }

  // A contents' link leads into what is folded.
  function unfold() {
    const found = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    for (const one of found ? all(':scope > details', found) : []) one.open = true;
  }

  // From here on the page does something.

  all('table.sortable').forEach(makeSortable);
  addEventListener('hashchange', unfold);
  unfold();
  const figures = all('figure');
  if (typeof vegaEmbed === 'undefined' || !figures.length) return;
  document.documentElement.classList.add('scripted');
  document.querySelector('.tools').hidden = false;
  for (const id of ['axis', 'scale']) {
    document.getElementById(id).addEventListener('change', event => {
      state[id] = event.target.value;
      [state.low, state.high] = [null, null];
      redraw();
    });
  }
  document.getElementById('smooth').addEventListener('change', event => { state.smooth = event.target.checked; redraw(); });
  for (const button of all('[data-zoom]')) button.addEventListener('click', () => zoom(button.dataset.zoom));
  document.querySelector('.switches').addEventListener('change', switched);
  dark.addEventListener('change', redraw);
  const seen = new IntersectionObserver(entries => {
    for (const {isIntersecting, target} of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target);
    }
  }, {rootMargin: '300px'});
  for (const figure of figures) {
    addSaving(figure);
    linkBrush(figure);
    answerPointer(figure);
    seen.observe(figure);
  }
})();
