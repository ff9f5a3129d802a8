'use strict';
// What the pages share: elements, and the stage, which shows two pictures behind a slider or side
// by side. Text enters a page as text, never as markup.

const byId = (id) => document.getElementById(id);

/** A new element: properties starting with "on" are listeners, the others attributes. */
function make(tag, properties = {}, ...children) {
  const svg = ['svg', 'g', 'line', 'rect', 'circle', 'path', 'text', 'title'].includes(tag);
  const node = svg
    ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const hidden = (text) => make('span', { class: 'hidden' }, text);

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/**
 * The stage, from the elements of stage.html and the lists `pick-left` and `pick-right`.
 *
 * `shown` holds the numbers of the left and the right place. `look(place)` says what a place shows:
 * its name, and the `src` and `alt` of its picture or, in `missing`, why it has none. `size()` is
 * the width and height that all places have, or nothing. `onChange()` is called after other places
 * were chosen. `keys` are more keys of the viewer, from their names to what they do.
 */
function makeStage({ shown, look, size, onChange = () => {}, keys = {} }) {
  const stage = byId('stage');
  const slider = byId('slider');
  const handle = byId('handle');
  const panes = [byId('pane-left'), byId('pane-right')];
  const picks = [byId('pick-left'), byId('pick-right')];

  // zoom is relative to the whole picture in its pane; (x, y) is the point of the picture, as
  // fractions of it, at the middle of the pane. Both panes share them.
  const view = { zoom: 1, x: 0.5, y: 0.5, beside: false };

  /** The stage takes the shape of its pictures, width by height, within limits. */
  function setShape(shape) {
    stage.style.setProperty('--shape', clamp(shape, 0.8, 2.4));
    stage.style.setProperty('--shape-beside', clamp(2 * shape, 1.6, 4));
    stage.style.setProperty('--shape-stacked', clamp(shape / 2, 0.5, 1.5));
  }

  /** Fills both lists: each group has a label and its places, numbered on through all groups. */
  function setPlaces(groups) {
    for (const pick of picks) {
      let place = 0;
      pick.replaceChildren(...groups.map(({ label, names }) => make('optgroup', { label },
        ...names.map((name) => {
          const option = make('option', { value: place }, name);
          place += 1;
          return option;
        }))));
    }
  }

  /** Sizes in CSS pixels: the pane, the picture at the present zoom and where it begins. */
  function geometry() {
    const [paneWidth, paneHeight] = [panes[0].clientWidth, panes[0].clientHeight];
    const [pictureWidth, pictureHeight] = size() ?? [4, 3];
    const fit = Math.min(paneWidth / pictureWidth, paneHeight / pictureHeight) || 1;
    const smallest = Math.min(1, 1 / fit);
    const largest = Math.max(8, 16 / fit);
    const scale = fit * clamp(view.zoom, smallest, largest);
    const width = pictureWidth * scale;
    const height = pictureHeight * scale;
    return {
      paneWidth, paneHeight, pictureWidth, pictureHeight, fit, smallest, largest, scale, width,
      height, left: paneWidth / 2 - view.x * width, top: paneHeight / 2 - view.y * height,
    };
  }

  /** Keeps the picture over the pane where it is larger, in the middle where it is smaller. */
  function settle() {
    const g = geometry();
    view.zoom = clamp(view.zoom, g.smallest, g.largest);
    const held = (centre, pane, picture) => {
      const margin = pane / 2 / picture;
      return picture <= pane + 0.5 ? 0.5 : clamp(centre, margin, 1 - margin);
    };
    view.x = held(view.x, g.paneWidth, g.width);
    view.y = held(view.y, g.paneHeight, g.height);
  }

  /** Left and right edge of what is visible of the picture, in the pane. */
  function visible(g) {
    return [Math.max(g.left, 0), Math.min(g.left + g.width, g.paneWidth)];
  }

  function draw() {
    settle();
    const g = geometry();
    for (const pane of panes) {
      const image = pane.querySelector('img');
      image.style.width = `${g.pictureWidth}px`;
      image.style.height = `${g.pictureHeight}px`;
      image.style.transform = `translate(${g.left}px, ${g.top}px) scale(${g.scale})`;
    }
    stage.classList.toggle('squares', g.scale > 2);
    stage.classList.toggle('enlarged', view.zoom > 1);
    const [from, to] = visible(g);
    const cut = from + (to - from) * slider.valueAsNumber / 100;
    panes[0].style.clipPath = view.beside ? '' : `inset(0 ${g.paneWidth - cut}px 0 0)`;
    handle.style.left = `${cut}px`;
    const [left, right] = shown.map((place) => look(place).name);
    slider.setAttribute('aria-valuetext',
      `${slider.value} % ${left}, ${100 - slider.valueAsNumber} % ${right}`);
    byId('zoom').textContent = `${Math.round(100 * g.scale)} %`;
    byId('zoom-out').disabled = view.zoom <= g.smallest;
    byId('zoom-in').disabled = view.zoom >= g.largest;
  }

  /** Zooms about a point of the pane, its middle if none is given. */
  function zoomTo(zoom, px, py) {
    const before = geometry();
    const [cx, cy] = [px ?? before.paneWidth / 2, py ?? before.paneHeight / 2];
    const u = (cx - before.left) / before.width;
    const v = (cy - before.top) / before.height;
    view.zoom = clamp(zoom, before.smallest, before.largest);
    const after = geometry();
    view.x = u - (cx - after.paneWidth / 2) / after.width;
    view.y = v - (cy - after.paneHeight / 2) / after.height;
    draw();
  }

  function pan(dx, dy) {
    const g = geometry();
    view.x -= dx / g.width;
    view.y -= dy / g.height;
    draw();
  }

  function reset() {
    Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
    draw();
  }

  function setBeside(beside) {
    view.beside = beside;
    stage.classList.toggle('beside', beside);
    byId('beside').setAttribute('aria-pressed', beside);
    slider.disabled = beside;
    draw();
  }

  function showPane(side) {
    const { name, src, alt, missing } = look(shown[side]);
    const [pane, image] = [panes[side], panes[side].querySelector('img')];
    picks[side].value = shown[side];
    pane.querySelector('figcaption').textContent = name;
    pane.classList.toggle('empty', !src);
    if (src) image.src = src;
    else image.removeAttribute('src');
    image.alt = src ? alt : '';
    pane.querySelector('.missing').textContent = src ? '' : missing;
  }

  /** Shows both places anew. */
  function show() {
    showPane(0);
    showPane(1);
    draw();
  }

  function change() {
    show();
    onChange();
  }

  function swap() {
    shown.reverse();
    change();
  }

  // Controls.
  picks.forEach((pick, side) => pick.addEventListener('change', () => {
    shown[side] = Number(pick.value);
    change();
  }));
  slider.addEventListener('input', draw);
  byId('swap').addEventListener('click', swap);
  byId('zoom-in').addEventListener('click', () => zoomTo(view.zoom * 1.5));
  byId('zoom-out').addEventListener('click', () => zoomTo(view.zoom / 1.5));
  byId('zoom-fit').addEventListener('click', reset);
  byId('zoom-one').addEventListener('click', () => zoomTo(1 / geometry().fit));
  byId('beside').addEventListener('click', () => setBeside(!view.beside));

  // Keys, anywhere in the viewer; a list box keeps the letters one types to find an entry.
  byId('viewer').addEventListener('keydown', (event) => {
    const listBox = event.target.tagName === 'SELECT';
    if (event.ctrlKey || event.metaKey || event.altKey || listBox) return;
    const actions = {
      '+': () => zoomTo(view.zoom * 1.5), '=': () => zoomTo(view.zoom * 1.5),
      '-': () => zoomTo(view.zoom / 1.5), 0: reset, 1: () => zoomTo(1 / geometry().fit),
      s: swap, b: () => setBeside(!view.beside), ...keys,
    };
    if (event.target === stage) {
      const slide = !view.beside && view.zoom <= 1;
      const arrow = (dx, dy) => () => {
        if (slide && dy === 0) moveSlider(slider.valueAsNumber - Math.sign(dx));
        else if (!slide) pan(dx, dy);
      };
      Object.assign(actions, { ArrowLeft: arrow(40, 0), ArrowRight: arrow(-40, 0) });
      if (!slide) Object.assign(actions, { ArrowUp: arrow(0, 40), ArrowDown: arrow(0, -40) });
      if (!view.beside) {
        Object.assign(actions, { Home: () => moveSlider(0), End: () => moveSlider(100) });
      }
    }
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action) return;
    event.preventDefault();
    action();
  });

  function moveSlider(percent) {
    slider.value = percent;
    draw();
  }

  // The wheel alone scrolls the page until the picture was clicked.
  stage.addEventListener('wheel', (event) => {
    const outwards = event.deltaY > 0 && view.zoom <= geometry().smallest;
    if (!event.ctrlKey && (document.activeElement !== stage || outwards)) return;
    event.preventDefault();
    const [px, py] = inPane(event);
    zoomTo(view.zoom * Math.exp(-clamp(event.deltaY, -100, 100) / 300), px, py);
  }, { passive: false });

  /** Where a pointer is, in the coordinates of the pane below it. */
  function inPane(event) {
    const under = view.beside && panes[1].getBoundingClientRect();
    const pane = under && event.clientX >= under.left && event.clientY >= under.top
      ? panes[1] : panes[0];
    const box = pane.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  // One pointer slides or pans, two zoom.
  const pointers = new Map();
  let action = null;

  function slideTo(px) {
    const [from, to] = visible(geometry());
    moveSlider(Math.round(100 * clamp((px - from) / (to - from), 0, 1)));
  }

  stage.addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    const [px, py] = inPane(event);
    pointers.set(event.pointerId, [px, py]);
    if (pointers.size > 1) {
      action = 'pinch';
    } else {
      const atLine = Math.abs(px - parseFloat(handle.style.left)) < 24;
      action = !view.beside && (atLine || view.zoom <= 1) ? 'slide' : 'pan';
      if (action === 'slide' && event.pointerType === 'mouse') slideTo(px);
    }
  });
  stage.addEventListener('pointermove', (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = inPane(event);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, now);
    if (action === 'slide') slideTo(now[0]);
    else if (action === 'pan') pan(now[0] - before[0], now[1] - before[1]);
    else if (other) {
      const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
      zoomTo(view.zoom * apart(now) / apart(before),
        (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    }
  });
  for (const end of ['pointerup', 'pointercancel']) {
    stage.addEventListener(end, (event) => {
      pointers.delete(event.pointerId);
      action = pointers.size === 1 && action === 'pinch' ? 'pan' : pointers.size ? action : null;
    });
  }
  stage.addEventListener('dblclick', reset);
  new ResizeObserver(draw).observe(stage);

  return { shown, draw, reset, setPlaces, setShape, show, stage };
}
