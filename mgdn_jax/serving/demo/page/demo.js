// The page of `mgdn demo`: pictures are chosen, sent, and shown with what came of them.
(() => {
  const data = JSON.parse(byId('data').textContent);
  const { tasks, models, samples, limits } = data;

  // -------------------------------------------------------------------------------- pictures

  const chosen = []; // { file, url }, in the order in which they are fused
  const drop = byId('drop');
  const input = byId('files');

  const amount = (bytes) => (bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB`
    : `${(bytes / 1e6).toFixed(1)} MB`);

  /** A row of the list; the browser shows what it can, other kinds have their ending. */
  function row(entry, index) {
    const { file, url } = entry;
    const ending = file.name.includes('.') ? file.name.split('.').pop().slice(0, 6) : 'file';
    const thumb = make('span', { class: 'thumb', 'aria-hidden': 'true' }, make('img', {
      src: url, alt: '', decoding: 'async', onerror: (event) => event.target.replaceWith(ending),
    }));
    const move = (by) => () => {
      chosen.splice(index, 1);
      chosen.splice(index + by, 0, entry);
      list();
      const [up, down] = byId('chosen').children[index + by].querySelectorAll('button');
      const [wanted, other] = by < 0 ? [up, down] : [down, up];
      (wanted.disabled ? other : wanted).focus();
    };
    const button = (text, label, disabled, onclick) => make('button', {
      type: 'button', 'aria-label': `${label} ${file.name}`, title: label, disabled, onclick,
    }, text);
    return make('li', {}, thumb,
      make('span', { class: 'name', title: file.name }, file.name,
        make('span', { class: 'muted small' }, amount(file.size))),
      make('span', { class: 'buttons' },
        button('↑', 'Move up', index === 0, move(-1)),
        button('↓', 'Move down', index === chosen.length - 1, move(1)),
        button('✕', 'Remove', false, () => {
          URL.revokeObjectURL(url);
          chosen.splice(index, 1);
          list();
          (byId('chosen').children[Math.min(index, chosen.length - 1)]?.querySelector('button:last-child')
            ?? input).focus();
        })));
  }

  function list() {
    byId('chosen').replaceChildren(...chosen.map(row));
  }

  function add(files) {
    for (const file of files) chosen.push({ file, url: URL.createObjectURL(file) });
    list();
    complain('');
  }

  function clear() {
    for (const { url } of chosen) URL.revokeObjectURL(url);
    chosen.length = 0;
  }

  input.addEventListener('change', () => {
    add(input.files);
    input.value = ''; // the same file may be chosen again
  });
  let above = 0; // elements of the page that something is dragged over
  addEventListener('dragenter', (event) => {
    event.preventDefault();
    above += 1;
    drop.classList.add('above');
  });
  addEventListener('dragleave', () => {
    above -= 1;
    drop.classList.toggle('above', above > 0);
  });
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', (event) => {
    event.preventDefault();
    above = 0;
    drop.classList.remove('above');
    add(event.dataTransfer.files);
  });

  samples.forEach(({ title, about, task, files }) => {
    byId('samples').append(make('button', {
      type: 'button', title: `${title} (${about})`, onclick: async () => {
        const parts = await Promise.all(files.map(async (name) => {
          const answer = await fetch(`samples/${name}`);
          return new File([await answer.blob()], name);
        })).catch(() => null);
        if (parts === null) {
          complain('The program behind this page does not answer; start mgdn demo again.');
          return;
        }
        clear();
        add(parts);
        if (byId('task').value !== '') byId('task').value = task;
        describe();
        byId('fuse').focus();
      },
    }, title, make('span', { class: 'muted' }, ` (${about})`)));
  });

  // -------------------------------------------------------------------------------- settings

  byId('task').append(make('option', { value: '' }, 'Propose it from the pictures'),
    ...tasks.map(({ name, sources }) => make('option', { value: name }, `${name}: ${sources}`)));

  /** Says what the task gives, and offers its networks; those of other tasks are left out. */
  function describe() {
    const task = tasks.find(({ name }) => name === byId('task').value);
    byId('task-about').textContent = task ? `Gives: ${task.result}.`
      : 'The pictures decide; where they do not show it clearly, you are asked.';
    const before = byId('model').value;
    const fitting = models.filter((model) => !task || !model.task || model.task === task.name);
    byId('model').replaceChildren(
      make('option', { value: '' }, task ? `The task's (${task.model})` : "The task's"),
      ...fitting.map(({ name }) => make('option', { value: name }, name)),
    );
    if (fitting.some(({ name }) => name === before)) byId('model').value = before;
  }

  byId('task').addEventListener('change', describe);
  describe();
  if (data.first) {
    byId('model').value = data.first;
    byId('more').open = true;
  }

  // -------------------------------------------------------------------------------- the work

  const status = byId('status');
  const bar = byId('bar');
  let running = null; // what ends the request that is under way

  function complain(sentence) {
    byId('error').textContent = sentence;
    byId('error').hidden = sentence === '';
  }

  function busy(is) {
    byId('fuse').disabled = is;
    byId('cancel').hidden = !is;
    byId('progress').hidden = !is;
    byId('form').setAttribute('aria-busy', is);
  }

  const words = {
    reading: () => 'Reading the pictures …',
    waiting: ({ ahead }) => `Waiting: ${ahead === 1 ? '1 other is' : `${ahead} others are`} in front …`,
    loading: ({ task, model }) => `Task ${task}: loading ${model} …`,
    preparing: () => 'Preparing the pictures …',
    compiling: () => 'Making the network ready for this size, which takes a while the first time …',
    fusing: ({ done, total }) => (total > 1 ? `Fusing: ${done} of ${total} parts …` : 'Fusing …'),
    scoring: () => 'Measuring …',
    encoding: () => 'Writing the result …',
  };

  function progress(step) {
    const sentence = words[step.step]?.(step) ?? '';
    if (status.textContent !== sentence) status.textContent = sentence;
    if (step.total > 1) bar.value = step.done / step.total;
    else bar.removeAttribute('value');
  }

  /** Reads the lines of an answer; what follows the last one is the result's files. */
  async function receive(answer) {
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let rest = new Uint8Array(0);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new TypeError('the answer ends early');
      const joined = new Uint8Array(rest.length + value.length);
      joined.set(rest);
      joined.set(value, rest.length);
      rest = joined;
      for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
        const step = JSON.parse(decoder.decode(rest.subarray(0, end)));
        rest = rest.subarray(end + 1);
        if (step.step === 'error') return { ...step, says: `Not fused: ${step.says}` };
        if (step.step === 'done') return { ...step, parts: await files(step.files, rest, reader) };
        progress(step);
      }
    }
  }

  async function files(sizes, first, reader) {
    const parts = [first];
    let length = first.length;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      length += value.length;
    }
    if (length !== sizes.reduce((sum, { bytes }) => sum + bytes, 0)) {
      throw new TypeError('the answer ends early');
    }
    const whole = new Blob(parts);
    let at = 0;
    return sizes.map(({ type, bytes }) => {
      at += bytes;
      return whole.slice(at - bytes, at, type);
    });
  }

  /** What keeps the pictures from being sent, in a sentence; empty if nothing does. */
  function obstacle() {
    if (chosen.length === 0) return 'Choose two pictures or more first.';
    if (chosen.length > limits.files) return `Choose at most ${limits.files} pictures.`;
    if (chosen.reduce((sum, { file }) => sum + file.size, 0) > limits.bytes) {
      return `The files have more than ${Math.floor(limits.bytes / 2 ** 20)} MB together; choose fewer or smaller ones.`;
    }
    return '';
  }

  async function fuse() {
    const sentence = obstacle();
    complain(sentence);
    if (sentence) {
      byId('error').focus();
      return;
    }
    const head = {
      task: byId('task').value,
      model: byId('model').value,
      placing: byId('placing').value,
      files: chosen.map(({ file }) => ({ name: file.name, bytes: file.size })),
    };
    running = new AbortController();
    busy(true);
    status.textContent = 'Sending the pictures …';
    bar.removeAttribute('value');
    byId('cancel').focus();
    let result;
    try {
      result = await receive(await fetch('fuse', {
        method: 'POST',
        headers: { 'Content-Type': data.mediaType },
        body: new Blob([`${JSON.stringify(head)}\n`, ...chosen.map(({ file }) => file)]),
        signal: running.signal,
      }));
    } catch (error) {
      const says = error.name === 'AbortError' ? 'Cancelled.'
        : 'The program behind this page has ended or was cut off; start mgdn demo again and retry.';
      result = { step: 'error', says };
    }
    running = null;
    busy(false);
    if (result.step === 'error') {
      complain(result.says);
      byId('error').focus();
    } else show(result);
  }

  byId('form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (!running) fuse();
  });
  byId('cancel').addEventListener('click', () => running?.abort());

  // -------------------------------------------------------------------------------- the result

  let places = []; // { name, src } of each picture, the result last
  let size = null;
  const stage = makeStage({
    shown: [0, 0],
    look: (place) => ({
      name: places[place]?.name ?? '',
      src: places[place]?.src,
      alt: places[place]?.name ?? '',
      missing: 'There is no room for this picture on the page.',
    }),
    size: () => size,
  });

  const item = (text) => make('li', {}, text);

  function show(result) {
    for (const { src } of places) if (src) URL.revokeObjectURL(src);
    URL.revokeObjectURL(byId('download').href);
    const [file, ...pictures] = result.parts;
    places = [...result.names, 'result'].map((name, place) => ({
      name, src: pictures[place].size > 0 ? URL.createObjectURL(pictures[place]) : null,
    }));
    size = [result.width, result.height];
    const count = result.names.length;

    byId('download').href = URL.createObjectURL(file);
    byId('download').download = result.download;
    byId('download').textContent = `Download ${result.download.split('.').pop().toUpperCase()} (${amount(file.size)})`;
    byId('about').textContent = `${result.width} × ${result.height}, ${result.dtype}`
      + `${result.has_profile ? ', with its colour profile' : ''}. Task: ${result.task}`
      + `${result.proposed ? ', proposed from the pictures' : ''}. Network: ${result.model}. `
      + `${result.seconds.toFixed(1)} s.`;
    byId('warnings').replaceChildren(...result.warnings.map(item));
    byId('steps').replaceChildren(...result.steps.map(item));
    byId('steps-title').hidden = result.steps.length === 0;
    byId('scores-table').replaceChildren(make('tbody', {}, ...result.scores.rows.map(
      ([name, value]) => make('tr', {}, make('th', { scope: 'row' }, name),
        make('td', { class: 'number' }, value)))));
    byId('scores-why').textContent = result.scores.why;
    const smaller = result.reduced.some((entry) => entry !== null && entry[1] < 1);
    byId('reduced').textContent = 'Shown as JPEG'
      + `${smaller ? ', reduced in size' : ''}; the download and the scores are not.`;

    byId('viewer').hidden = false;
    stage.setPlaces([{ label: 'Pictures', names: result.names }, { label: 'Fused', names: ['result'] }]);
    [stage.shown[0], stage.shown[1]] = [0, count];
    stage.setShape(size[0] / size[1]);
    byId('slider').value = 50;
    stage.reset();
    stage.show();
    byId('viewer').scrollIntoView({ block: 'start' });
    byId('viewer-title').focus({ preventScroll: true });
  }
})();
