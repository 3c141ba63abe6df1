'use strict';

const $ = (id) => document.getElementById(id);
const cards = new Map(); // by the id of the job
const RESTING = ['ready', 'done', 'failed', 'cancelled'];

function report(message) {
  $('error').textContent = message;
}

async function call(method, address) {
  const answer = await fetch(address, { method });
  if (!answer.ok) {
    const { detail } = await answer.json().catch(() => ({ detail: answer.statusText }));
    throw new Error(detail);
  }
  return answer;
}

async function act(method, address) {
  report('');
  try {
    await call(method, address);
  } catch (error) {
    report(error.message);
  }
  await refresh();
}

// Upload ----------------------------------------------------------------------------------------

let request = null;
let maxBytes = Infinity;

async function upload(file) {
  if (!file) return;
  if (!$('weights').options.length) await refresh(); // the page was opened a moment ago
  if (!$('weights').options.length) return; // the server does not answer
  if (request) {
    report('Wait until the upload is complete, or cancel it.');
    return;
  }
  if (file.size > maxBytes) {
    report(`${file.name}: is larger than ${maxBytes / 1e9} GB, the limit of this server`);
    $('file').value = '';
    return;
  }
  report('');
  request = new XMLHttpRequest(); // fetch does not report the progress
  const address = new URLSearchParams({ name: file.name, weights: $('weights').value });
  request.open('POST', `jobs?${address}`);
  request.upload.addEventListener('progress', (event) => {
    $('uploaded').value = event.loaded / event.total;
  });
  request.addEventListener('load', () => {
    if (request.status !== 200) report(detail(request.responseText));
  });
  request.addEventListener('error', () => report(`${file.name}: the upload was cut off.`));
  request.addEventListener('loadend', () => {
    request = null;
    $('upload').hidden = true;
    $('file').value = '';
    refresh();
  });
  $('uploaded').value = 0;
  $('upload-name').textContent = file.name;
  $('upload').hidden = false;
  request.send(file);
}

function detail(text) {
  try {
    return JSON.parse(text).detail;
  } catch {
    return 'The server failed; see its log.';
  }
}

$('file').addEventListener('change', () => upload($('file').files[0]));
$('stop').addEventListener('click', () => request && request.abort());
for (const name of ['dragenter', 'dragover']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $('drop').classList.add('over');
  });
}
for (const name of ['dragleave', 'drop']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $('drop').classList.remove('over');
  });
}
document.addEventListener('drop', async (event) => {
  const { files } = event.dataTransfer;
  await upload(files[0]);
  if (files.length > 1) report('One video at a time: only the first one is uploaded.');
});

// Jobs ------------------------------------------------------------------------------------------

function describe(job, ahead) {
  const doing = job.task === 'preview' ? 'Preview' : 'Restoring';
  if (job.state === 'waiting') return ahead ? `Waiting for ${ahead} before it` : 'Waiting';
  if (job.state === 'running') {
    const left = job.left ? `, ${job.left} left` : '';
    return `${doing}: ${job.finished} of ${job.frames || '?'} frames${left}`;
  }
  return { ready: 'Preview', done: 'Done', failed: 'Failed', cancelled: 'Cancelled' }[job.state]
    + (job.message && job.state !== 'cancelled' ? `: ${job.message}` : '');
}

function addCard(job) {
  const card = $('job').content.firstElementChild.cloneNode(true);
  const find = (selector) => card.querySelector(selector);
  const chosen = () => new URLSearchParams({ weights: $('weights').value });
  find('h2').textContent = job.name;
  find('.restore').addEventListener('click', () => {
    act('POST', `jobs/${job.id}/restore?${new URLSearchParams({ weights: card.dataset.weights })}`);
  });
  find('.again').addEventListener('click', () => act('POST', `jobs/${job.id}/preview?${chosen()}`));
  find('.cancel').addEventListener('click', () => act('DELETE', `jobs/${job.id}/task`));
  find('.remove').addEventListener('click', () => act('DELETE', `jobs/${job.id}`));
  find('.download').href = `jobs/${job.id}/result`;
  $('jobs').prepend(card);
  cards.set(job.id, card);
  return card;
}

function update(job, ahead) {
  const card = cards.get(job.id) ?? addCard(job);
  const find = (selector) => card.querySelector(selector);
  const idle = RESTING.includes(job.state);
  card.className = job.state;
  card.dataset.weights = job.weights;
  const text = `${describe(job, ahead)} (${job.weights})`;
  if (find('.state').textContent !== text) find('.state').textContent = text;
  find('progress').hidden = job.state !== 'running';
  find('progress').value = job.frames ? job.finished / job.frames : 0;
  find('.restore').hidden = !idle || job.state === 'done';
  const same = job.previewed && job.weights === $('weights').value;
  find('.again').hidden = !idle || job.state === 'done' || same;
  find('.cancel').hidden = idle;
  find('.remove').hidden = job.state === 'running';
  find('.download').hidden = job.state !== 'done';
  const frame = find('iframe');
  const shown = job.previewed && !(job.task === 'preview' && !idle) ? job.weights : '';
  if (frame.dataset.shown !== shown) {
    frame.dataset.shown = shown;
    frame.hidden = !shown;
    frame.src = shown ? `jobs/${job.id}/preview/index.html` : 'about:blank';
  }
}

async function refresh() {
  let state;
  try {
    state = await (await call('GET', 'jobs')).json();
  } catch {
    report('The server does not answer.');
    return;
  }
  maxBytes = state.max_bytes;
  if ($('error').textContent === 'The server does not answer.') report('');
  if (!$('weights').options.length) {
    $('weights').replaceChildren(...state.weights.map((name) => new Option(name)));
  }
  const pending = state.jobs.filter((job) => !RESTING.includes(job.state));
  for (const job of state.jobs) {
    update(job, pending.filter((other) => other.queued < job.queued).length);
  }
  const left = new Set(state.jobs.map((job) => job.id));
  for (const [id, card] of cards) {
    if (!left.has(id)) {
      card.remove();
      cards.delete(id);
    }
  }
}

async function poll() {
  await refresh();
  setTimeout(poll, 500);
}

$('weights').addEventListener('change', refresh);
poll();
