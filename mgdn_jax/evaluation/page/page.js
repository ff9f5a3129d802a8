'use strict';
// The moving parts of the report: sorting, the viewer, the plots and the scores per image.
// Everything is read from the JSON in #data. Text enters the page as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const { metrics, images, methods, elsewhere } = data;

  // ------------------------------------------------------------------------------ helpers

  /** A score as the page shows it; JSON has "NaN" and "Infinity" as text, null for none. */
  function format(value, digits) {
    if (value === null || value === undefined) return '–';
    const number = Number(value);
    if (Number.isNaN(number)) return 'NaN';
    if (!Number.isFinite(number)) return number > 0 ? '∞' : '-∞';
    return number.toFixed(digits);
  }

  /** The score of a method on an image: a number (NaN and Infinity included) or null. */
  function score(method, image, metric) {
    const row = methods[method].values[image];
    return row === null || row[metric] === null ? null : Number(row[metric]);
  }

  /** Best value of a metric among all methods on one image, as shown; null below two values. */
  function bestOf(image, metric) {
    const seen = methods
      .map((_, method) => score(method, image, metric))
      .filter((value) => value !== null && Number.isFinite(value));
    if (seen.length < 2) return null;
    return format(metrics[metric].higher ? Math.max(...seen) : Math.min(...seen),
      metrics[metric].digits);
  }

  function scoreCell(method, image, metric) {
    const value = score(method, image, metric);
    const failure = methods[method].failures[image];
    if (value === null) {
      return make('td', { class: 'number muted', 'data-value': '', title: failure },
        failure === null ? '–' : 'failed');
    }
    const text = format(value, metrics[metric].digits);
    const cell = make('td', { class: 'number', 'data-value': value });
    if (text === bestOf(image, metric)) {
      cell.append(make('strong', { class: 'best' }, text, hidden(' (best)')));
    } else cell.append(text);
    return cell;
  }

  // ------------------------------------------------------------------------------ sorting

  const collator = new Intl.Collator('en', { numeric: true });

  /** Makes the buttons in a table's head sort its body; what has no value comes last. */
  function makeSortable(table) {
    table.tHead.addEventListener('click', (event) => {
      const head = event.target.closest('th[data-first]');
      if (!head) return;
      const before = head.getAttribute('aria-sort');
      const order = before === null ? head.dataset.first
        : before === 'ascending' ? 'descending' : 'ascending';
      for (const other of table.tHead.querySelectorAll('th')) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', order);
      sortRows(table, head.cellIndex, head.classList.contains('number'), order);
    });
  }

  function sortRows(table, column, numeric, order) {
    const sign = order === 'ascending' ? 1 : -1;
    const keyed = [...table.tBodies[0].rows].map((row) => {
      const text = row.cells[column].dataset.value;
      const key = !numeric ? text : text === '' ? NaN
        : Number(text.replace(/^(-?)inf$/, '$1Infinity').replace('nan', 'NaN'));
      return { row, key };
    });
    keyed.sort((one, two) => {
      if (!numeric) return sign * collator.compare(one.key, two.key);
      if (Number.isNaN(one.key) || Number.isNaN(two.key)) {
        return Number.isNaN(one.key) - Number.isNaN(two.key);
      }
      return one.key === two.key ? 0 : sign * (one.key < two.key ? -1 : 1);
    });
    table.tBodies[0].append(...keyed.map((item) => item.row));
  }

  makeSortable(byId('means-table'));

  // ---------------------------------------------------------------------------- wide tables

  /** Shows beside a table that is wider than its box that more columns follow. */
  function hintAtColumns(frame) {
    const box = frame.querySelector('.scroll');
    const look = () => {
      frame.classList.toggle('wide', box.scrollWidth > box.clientWidth + 1);
      frame.classList.toggle('more', box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    };
    box.addEventListener('scroll', look, { passive: true });
    const sizes = new ResizeObserver(look);
    sizes.observe(box);
    sizes.observe(box.querySelector('table'));
  }

  document.querySelectorAll('.frame').forEach(hintAtColumns);

  // ------------------------------------------------------------------------------- viewer

  // Pictures of an image: source a, source b, then the methods. Left and right are such places.
  const places = [...data.sources, ...methods.map((method) => method.name)];
  const onImage = []; // called with the index of each image that the viewer comes to show

  const viewer = (() => {
    const pickImage = byId('pick-image');
    const strip = byId('strip');
    const back = make('button', { type: 'button', id: 'back', hidden: '' }, '↩ Back');
    document.querySelector('.tools').append(back);
    const bare = data.sizes.every((size) => size === null);
    const firstModel = methods.findIndex((method) => !method.baseline);

    let current = 0; // the image that is shown
    const shown = [1, 2 + Math.max(firstModel, 0)];
    let comeFrom = null;

    images.forEach((name, index) => {
      const note = bare || data.sizes[index] ? '' : ' (no pictures)';
      pickImage.append(make('option', { value: index }, name + note));
    });
    images.forEach((name, index) => {
      const pictures = data.pictures[index];
      const picture = pictures[2 + Math.max(firstModel, 0)] ?? pictures.find(Boolean);
      if (!picture) return;
      strip.append(make('button', {
        type: 'button', title: name, 'aria-label': name, tabindex: -1, 'data-image': index,
        onclick: () => open(index),
      }, make('img', { src: picture[0], alt: '', decoding: 'async', loading: 'lazy' })));
    });
    strip.hidden = strip.children.length < 2;

    function look(place) {
      const picture = data.pictures[current][place];
      const failure = place < 2 ? null : methods[place - 2].failures[current];
      return {
        name: places[place],
        src: picture?.[0],
        alt: `${places[place]} of ${images[current]}`,
        missing: failure ?? 'The report holds no picture of this image.',
      };
    }

    const step = (by) => {
      const image = clamp(current + by, 0, images.length - 1);
      if (image !== current) open(image);
    };

    const stage = makeStage({
      shown,
      look,
      size: () => data.sizes[current],
      onChange: showScores,
      keys: {
        '[': () => step(-1), ']': () => step(1), PageUp: () => step(-1), PageDown: () => step(1),
      },
    });
    stage.setPlaces([
      { label: 'Sources', names: data.sources },
      { label: 'Fused', names: methods.map((method) => method.name) },
    ]);

    // The stage keeps the shape that most pictures have, so that it does not jump between images.
    const shapes = new Map();
    for (const size of data.sizes) {
      if (size) shapes.set(size[0] / size[1], (shapes.get(size[0] / size[1]) ?? 0) + 1);
    }
    stage.setShape([...shapes].sort((one, two) => two[1] - one[1])[0]?.[0] ?? 4 / 3);

    /** Table beside the pictures: a row a metric, the methods shown and the best of all. */
    function showScores() {
      const chosen = [...new Set(shown)].filter((place) => place > 1).map((place) => place - 2);
      if (chosen.length === 0 && methods.length > 0) chosen.push(Math.max(firstModel, 0));
      const head = make('tr', {}, make('th', { scope: 'col', class: 'plain' }, 'metric'),
        ...chosen.map((method) => make('th', { scope: 'col', class: 'plain number', title: methods[method].name },
          methods[method].name)));
      if (methods.length > 1) head.append(make('th', { scope: 'col', class: 'plain number' }, 'best'));
      const rows = metrics.map((metric, index) => {
        const row = make('tr', {}, make('th', { scope: 'row' }, `${metric.name} ${metric.arrow}`),
          ...chosen.map((method) => scoreCell(method, current, index)));
        if (methods.length > 1) {
          const best = bestOf(current, index);
          const winners = methods.filter((_, method) =>
            best !== null && format(score(method, current, index), metric.digits) === best);
          row.append(make('td', { class: 'number muted', title: winners.map((m) => m.name).join(', ') },
            best ?? '–'));
        }
        return row;
      });
      byId('scores-table').replaceChildren(make('thead', {}, head), make('tbody', {}, ...rows));
      byId('scores-title').textContent = `Scores of ${images[current]}`;
      byId('shown').textContent = shown.flatMap((place) => {
        const picture = data.pictures[current][place];
        if (picture === null) return [];
        const size = picture[2] < 1 ? ` at ${Math.round(100 * picture[2])} % of its size` : '';
        return [`${places[place]}: JPEG ${picture[1]}${size}.`];
      }).join(' ') + ' Scores are of the originals.';
    }

    function show() {
      pickImage.value = current;
      byId('previous').disabled = current === 0;
      byId('next').disabled = current === images.length - 1;
      stage.show();
      showScores();
      for (const thumb of strip.children) {
        const isCurrent = Number(thumb.dataset.image) === current;
        thumb.setAttribute('aria-current', isCurrent);
        // Scrolls the strip alone, not the page.
        if (isCurrent) strip.scrollLeft = thumb.offsetLeft - strip.offsetLeft - strip.clientWidth / 2 + 38;
      }
      for (const listener of onImage) listener(current);
    }

    function open(image) {
      const before = data.sizes[current];
      current = image;
      const now = data.sizes[image];
      // Zoom stays from image to image, to compare one place, unless the shape changes.
      if (!before || !now || before[0] !== now[0] || before[1] !== now[1]) stage.reset();
      show();
    }

    /** Shows an image, perhaps a method's picture of it, and comes into view. */
    function visit(image, method, from) {
      if (method !== null) shown[1] = method + 2;
      open(image);
      comeFrom = from;
      back.hidden = false;
      byId('viewer').scrollIntoView({ block: 'start' });
      (bare ? pickImage : stage.stage).focus({ preventScroll: true });
    }

    pickImage.addEventListener('change', () => open(Number(pickImage.value)));
    byId('previous').addEventListener('click', () => step(-1));
    byId('next').addEventListener('click', () => step(1));
    back.addEventListener('click', () => {
      back.hidden = true;
      comeFrom.scrollIntoView({ block: 'center' });
      comeFrom.focus({ preventScroll: true });
    });

    return { open, visit, start() {
      byId('viewer').hidden = false;
      byId('viewer').classList.toggle('bare', bare);
      const first = data.sizes.findIndex((size) => size !== null);
      open(Math.max(first, 0));
    } };
  })();

  // -------------------------------------------------------------------------------- plots

  const WIDTH = 360;
  const ROW = 40; // of a method
  const MEAN_ROW = 30; // of a mean that was measured elsewhere
  const FOOT = 22; // the numbers of the axis
  const MARGIN = 10;
  const tip = byId('tip');
  const dotsOf = images.map(() => []); // of each image, its dots in all plots

  let tipOf = null; // the dot that the tip speaks of

  /** Puts the tip above a dot, or below it where there is no room. */
  function placeTip(dot) {
    tipOf = dot;
    const box = dot.getBoundingClientRect();
    const [width, height] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${clamp(box.left + box.width / 2 - width / 2, 6, innerWidth - width - 6)}px`;
    tip.style.top = `${box.top - height - 8 < 4 ? box.bottom + 8 : box.top - height - 8}px`;
  }

  function colour(method) {
    if (methods[method].baseline) return 'var(--plain)';
    const models = methods.slice(0, method).filter((other) => !other.baseline).length;
    return `var(--m${models % 8})`;
  }

  /** Value below which a fraction of the sorted values lies, with linear interpolation. */
  function quantile(sorted, fraction) {
    const at = (sorted.length - 1) * fraction;
    const low = Math.floor(at);
    return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
  }

  /** Two to five round numbers between two values. */
  function ticks(low, high) {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high; at += 1) found.push(at * step);
    return { found, digits: clamp(-Math.floor(Math.log10(step)), 0, 9) };
  }

  const shorten = (text) => (text.length > 44 ? `${text.slice(0, 43)}…` : text);

  /** The drawing of one metric, and how many values it leaves out; the drawing may be null. */
  function plot(metric) {
    const { name, digits } = metrics[metric];
    const columns = methods.map((_, method) => images
      .map((_image, image) => ({ image, value: score(method, image, metric) }))
      .filter((point) => point.value !== null));
    const finite = columns.map((points) => points.filter((point) => Number.isFinite(point.value)));
    const others = elsewhere
      .map((row) => ({ name: row.name, value: row.means[metric] }))
      .filter((row) => row.value !== null && Number.isFinite(Number(row.value)));
    const all = [...finite.flat().map((point) => point.value), ...others.map((row) => row.value)];
    const dropped = columns.flat().length - finite.flat().length;
    if (all.length === 0) return { svg: null, dropped };
    let [low, high] = [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))];
    const room = (high - low) * 0.03 || Math.abs(high) * 0.05 || 1;
    [low, high] = [low - room, high + room];
    const x = (value) => MARGIN + (value - low) / (high - low) * (WIDTH - 2 * MARGIN);
    const height = methods.length * ROW + others.length * MEAN_ROW + FOOT;

    const svg = make('svg', {
      viewBox: `0 0 ${WIDTH} ${height}`, role: 'group', 'aria-label': `${name}: a dot an image and method`,
    });
    const scale = ticks(low, high);
    for (const value of scale.found) {
      svg.append(
        make('line', { class: 'grid', x1: x(value), x2: x(value), y1: 2, y2: height - 18 }),
        make('text', { x: clamp(x(value), 14, WIDTH - 14), y: height - 5, 'text-anchor': 'middle' },
          value.toFixed(scale.digits)),
      );
    }
    const diamond = (value, y) => make('path', {
      class: 'mean', d: `M${x(value) - 4.5} ${y}l4.5 -4.5l4.5 4.5l-4.5 4.5z`,
    });

    const dots = []; // of each method, in the order of their values
    finite.forEach((points, method) => {
      const y = method * ROW + 27;
      const row = make('g');
      row.style.setProperty('--tone', colour(method));
      row.append(make('text', { class: 'who', x: MARGIN - 8, y: y - 14 },
        shorten(methods[method].name), make('title', {}, methods[method].name)));
      const cloud = make('g');
      cloud.style.setProperty('--solid', points.length > 100 ? 0.3 : 0.6);
      row.append(cloud);
      if (points.length > 0) {
        const sorted = points.map((point) => point.value).sort((a, b) => a - b);
        const [q1, median, q3] = [0.25, 0.5, 0.75].map((part) => quantile(sorted, part));
        row.append(
          make('rect', { class: 'box', x: x(q1), y: y - 8, width: x(q3) - x(q1), height: 16, rx: 2 }),
          make('line', { class: 'median', x1: x(median), x2: x(median), y1: y - 8, y2: y + 8 }),
        );
      }
      dots.push(points.sort((one, two) => one.value - two.value).map(({ image, value }, place) => {
        // Spread by the golden ratio: even, and the same at every opening of the page.
        const spread = ((image + 1) * 0.618034 % 1 - 0.5) * 12;
        const dot = make('circle', {
          class: 'dot', cx: x(value), cy: y + spread, r: points.length > 100 ? 2.2 : 3, tabindex: -1, role: 'button',
          'aria-label': `${images[image]}, ${methods[method].name}: ${name} ${format(value, digits)}`,
        });
        const entry = { dot, image, method, value, place, cx: x(value), cy: y + spread };
        dotsOf[image].push(dot);
        cloud.append(dot);
        return entry;
      }));
      const mean = Number(methods[method].means[metric] ?? NaN);
      if (Number.isFinite(mean)) row.append(diamond(mean, y));
      svg.append(row);
    });
    others.forEach((other, index) => {
      const y = methods.length * ROW + index * MEAN_ROW + 21;
      const row = make('g');
      row.style.setProperty('--tone', 'var(--plain)');
      row.append(make('text', { class: 'who', x: MARGIN - 8, y: y - 9 }, `${shorten(other.name)} †`),
        diamond(other.value, y),
        make('text', { x: x(other.value) + (x(other.value) > WIDTH / 2 ? -9 : 9), y: y + 4,
          'text-anchor': x(other.value) > WIDTH / 2 ? 'end' : 'start' }, format(other.value, digits)));
      svg.append(row);
    });

    // One stop of the Tab key a plot; the arrow keys walk along and between the rows.
    const flat = dots.flat();
    let stop = flat[0];
    if (stop) stop.dot.setAttribute('tabindex', 0);
    const nameOf = new Map(flat.map((entry) => [entry.dot, entry]));
    let near = null;

    function point(entry) {
      if (near) for (const dot of dotsOf[near.image]) dot.classList.remove('near');
      near = entry;
      tip.hidden = entry === null;
      if (entry === null) return;
      for (const dot of dotsOf[entry.image]) dot.classList.add('near');
      tip.replaceChildren(make('b', {}, images[entry.image]),
        `${methods[entry.method].name}: ${name} ${format(entry.value, digits)}`);
      placeTip(entry.dot);
    }

    function walkTo(entry) {
      stop.dot.setAttribute('tabindex', -1);
      stop = entry;
      stop.dot.setAttribute('tabindex', 0);
      stop.dot.focus();
    }

    /** The dot closest to the mouse, if it is close. */
    function nearest(event) {
      const box = svg.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top].map((v) => v * WIDTH / box.width);
      let found = null;
      let closest = 12;
      for (const entry of flat) {
        const distance = Math.hypot(entry.cx - px, entry.cy - py);
        if (distance < closest) [found, closest] = [entry, distance];
      }
      return found;
    }

    const visit = (entry) => {
      point(null);
      walkTo(entry);
      viewer.visit(entry.image, entry.method, entry.dot);
    };
    svg.addEventListener('pointermove', (event) => point(nearest(event)));
    svg.addEventListener('pointerleave', () => point(null));
    svg.addEventListener('click', (event) => {
      const entry = nearest(event);
      if (entry) visit(entry);
    });
    svg.addEventListener('focusin', (event) => point(nameOf.get(event.target) ?? null));
    svg.addEventListener('focusout', () => point(null));
    svg.addEventListener('keydown', (event) => {
      const entry = nameOf.get(event.target);
      if (!entry) return;
      const row = dots[entry.method];
      const beyond = (by) => {
        let method = entry.method + by;
        while (dots[method] && dots[method].length === 0) method += by;
        return dots[method]?.find((other) => other.image === entry.image) ?? dots[method]?.[0];
      };
      const targets = {
        ArrowLeft: row[entry.place - 1], ArrowRight: row[entry.place + 1],
        ArrowUp: beyond(-1), ArrowDown: beyond(1), Home: row[0], End: row[row.length - 1],
      };
      if (event.key === 'Enter' || event.key === ' ') visit(entry);
      else if (!Object.hasOwn(targets, event.key)) return;
      else if (targets[event.key]) walkTo(targets[event.key]);
      event.preventDefault();
    });

    return { svg, dropped };
  }

  function startPlots() {
    let ringed = null; // the image in the viewer
    function ring() {
      for (const dot of dotsOf[ringed] ?? []) {
        dot.classList.add('current');
        dot.parentNode.append(dot); // above the others
      }
    }
    onImage.push((image) => {
      for (const dot of dotsOf[ringed] ?? []) dot.classList.remove('current');
      ringed = image;
      ring();
    });

    // A drawing is made when it comes near the window, or to be printed: there may be many dots.
    const waiting = new Map(); // card to metric
    function drawCard(card) {
      if (!waiting.has(card)) return;
      const { svg, dropped } = plot(waiting.get(card));
      waiting.delete(card);
      observer.unobserve(card);
      card.lastChild.replaceWith(svg ?? 'There is no value to draw.');
      ring();
      if (dropped > 0) {
        card.append(make('p', { class: 'muted small' }, dropped === 1
          ? '1 value is NaN or infinite and not drawn.'
          : `${dropped} values are NaN or infinite and not drawn.`));
      }
    }
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) drawCard(entry.target);
    }, { rootMargin: '800px' });

    const height = methods.length * ROW + elsewhere.length * MEAN_ROW + FOOT;
    metrics.forEach(({ name, arrow }, metric) => {
      const room = make('div');
      room.style.aspectRatio = `${WIDTH} / ${height}`;
      const card = make('div', { class: 'card plot' }, make('h3', {}, name,
        make('span', {}, `${arrow} ${arrow === '↑' ? 'higher' : 'lower'} is better`)), room);
      waiting.set(card, metric);
      byId('plot-cards').append(card);
      observer.observe(card);
    });
    addEventListener('beforeprint', () => [...waiting.keys()].forEach(drawCard));
    addEventListener('scroll', () => { if (!tip.hidden) placeTip(tipOf); }, { passive: true });
    byId('plots').hidden = false;
  }

  // --------------------------------------------------------------------- scores per image

  function startScores() {
    const table = byId('images-table');
    const pick = byId('pick-view');
    const byMetric = make('optgroup', { label: 'One metric, all methods' });
    const byMethod = make('optgroup', { label: 'One method, all metrics' });
    metrics.forEach((metric, index) => byMetric.append(
      make('option', { value: `metric ${index}` }, `${metric.name} ${metric.arrow}`)));
    methods.forEach((method, index) => byMethod.append(
      make('option', { value: `method ${index}` }, method.name)));
    pick.append(byMetric, byMethod);
    let current = 0;

    const headOf = (text, kind, first) => make('th', { scope: 'col', class: kind, 'data-first': first },
      make('button', { type: 'button' }, text));

    function fill() {
      const [kind, index] = [pick.value.split(' ')[0], Number(pick.value.split(' ')[1])];
      const columns = kind === 'metric'
        ? methods.map((method, at) => ({ text: method.name, method: at, metric: index }))
        : metrics.map((metric, at) => ({ text: `${metric.name} ${metric.arrow}`, method: index, metric: at }));
      const head = make('tr', {}, headOf('image', 'name', 'ascending'), ...columns.map((column) =>
        headOf(column.text, 'number', metrics[column.metric].higher ? 'descending' : 'ascending')));
      const wins = columns.map(() => 0);
      const rows = images.map((name, image) => {
        const button = make('button', { type: 'button', title: name }, name);
        const row = make('tr', { 'data-image': image },
          make('th', { scope: 'row', class: 'name', 'data-value': name }, button),
          ...columns.map((column, at) => {
            const cell = scoreCell(column.method, image, column.metric);
            wins[at] += cell.querySelector('.best') ? 1 : 0;
            return cell;
          }));
        row.classList.toggle('current', image === current);
        row.addEventListener('click', () =>
          viewer.visit(image, kind === 'method' ? index : null, button));
        return row;
      });
      const foot = make('tr', {}, make('th', { scope: 'row', class: 'name' }, 'images won'),
        ...wins.map((count) => make('td', { class: 'number' }, String(count))));
      table.replaceChildren(make('thead', {}, head), make('tbody', {}, ...rows),
        ...(methods.length > 1 ? [make('tfoot', {}, foot)] : []));
      makeSortable(table);
      byId('images-legend').textContent = methods.length > 1
        ? 'Bold: best of all methods on that image. A click on a row opens its pictures.'
        : 'A click on a row opens its pictures.';
    }

    pick.addEventListener('change', fill);
    onImage.push((image) => {
      current = image;
      for (const row of table.tBodies[0].rows) {
        row.classList.toggle('current', Number(row.dataset.image) === image);
      }
    });
    byId('images').hidden = false;
    fill();
  }

  if (images.length > 0) {
    startPlots();
    startScores();
    viewer.start();
  }
})();
