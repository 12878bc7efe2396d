// Drives a headless Chromium over its debugging pipe (Chrome DevTools Protocol). Needs nothing but Node and the browser:
// Debian's chromium-headless-shell or chromium; OBOL_CHROMIUM names another one.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

function binary() {
  for (const name of [process.env.OBOL_CHROMIUM, 'chromium-headless-shell', 'chromium', 'google-chrome'].filter(Boolean)) {
    if (spawnSync(name, ['--version'], { timeout: 20_000 }).status === 0) return name;
  }
  throw new Error('no Chromium: apt-get install chromium-headless-shell, or name one in OBOL_CHROMIUM');
}

export class Browser {
  static async start() {
    const browser = new Browser();
    browser.profile = mkdtempSync(join(tmpdir(), 'obol-chromium-'));
    const root = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
    browser.process = spawn(binary(), [...root, '--headless', '--remote-debugging-pipe', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars',
      '--no-first-run', '--no-default-browser-check', '--disable-background-networking', '--disable-component-update', '--disable-sync',
      `--user-data-dir=${browser.profile}`, 'about:blank'], { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
    browser.waiting = new Map();
    browser.listeners = new Map();
    browser.next = 0;
    let rest = Buffer.alloc(0);
    browser.process.stdio[4].on('data', chunk => {
      rest = Buffer.concat([rest, chunk]);
      for (let end; (end = rest.indexOf(0)) >= 0; rest = rest.subarray(end + 1)) browser.receive(JSON.parse(rest.subarray(0, end)));
    });
    browser.process.on('exit', code => {
      for (const { reject } of browser.waiting.values()) reject(new Error(`Chromium ended with ${code}`));
    });
    browser.version = (await browser.send('Browser.getVersion')).product;
    return browser;
  }

  receive(message) {
    if (message.id !== undefined) {
      const { resolve, reject, method } = this.waiting.get(message.id) ?? {};
      this.waiting.delete(message.id);
      if (message.error) reject?.(new Error(`${method}: ${message.error.message}`));
      else resolve?.(message.result);
    } else {
      this.listeners.get(message.sessionId)?.(message.method, message.params);
    }
  }

  send(method, params = {}, sessionId = undefined) {
    const id = this.next += 1;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, method });
      this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  async page(options) {
    // A context of its own: no storage is shared between pages.
    const { browserContextId } = await this.send('Target.createBrowserContext');
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank', browserContextId });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId, targetId);
    await page.prepare(options);
    return page;
  }

  async stop() {
    await Promise.race([this.send('Browser.close').catch(() => {}), sleep(3000)]);
    if (this.process.exitCode === null) this.process.kill('SIGKILL');
    await sleep(200);
    rmSync(this.profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

class Page {
  constructor(browser, session, target) {
    Object.assign(this, { browser, session, target, errors: [], requests: [] });
  }

  send(method, params) {
    return this.browser.send(method, params, this.session);
  }

  async prepare({ width = 1280, height = 800, dark = false } = {}) {
    this.browser.listeners.set(this.session, (method, params) => this.event(method, params));
    for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await this.send(`${domain}.enable`);
    await this.send('Page.addScriptToEvaluateOnNewDocument', { source: `
      window.violations = [];
      addEventListener('securitypolicyviolation', e => violations.push(e.violatedDirective + ' ' + e.blockedURI + ' ' + e.sourceFile + ':' + e.lineNumber));` });
    await this.look({ width, height, dark });
  }

  async look({ width = this.width, height = this.height, dark = this.dark } = {}) {
    Object.assign(this, { width, height, dark });
    await this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 });
    await this.send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }] });
  }

  event(method, params) {
    if (method === 'Runtime.exceptionThrown') this.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === 'Runtime.consoleAPICalled' && ['error', 'warning', 'assert'].includes(params.type)) {
      this.errors.push(`console.${params.type}: ${params.args.map(a => a.value ?? a.description).join(' ')}`);
    }
    if (method === 'Log.entryAdded' && ['error', 'warning'].includes(params.entry.level)) this.errors.push(`${params.entry.source}: ${params.entry.text} ${params.entry.url ?? ''}`);
    if (method === 'Network.requestWillBeSent') this.requests.push(params.request.url);
  }

  async goto(url) {
    await this.send('Page.navigate', { url });
    await this.until(() => document.readyState === 'complete');
  }

  async reload() {
    await this.run(() => {
      window.before = true;
    });
    await this.send('Page.reload');
    await this.until(() => !window.before && document.readyState === 'complete');
  }

  /** Runs a function in the page, with arguments that JSON can hold. */
  async run(f, ...args) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', {
      expression: `(${f})(${args.map(a => JSON.stringify(a)).join(',')})`, returnByValue: true, awaitPromise: true, userGesture: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until a function in the page gives something true, and returns that. */
  async until(f, ...args) {
    const end = Date.now() + Number(process.env.OBOL_BROWSER_PATIENCE ?? 20) * 1000;
    for (;;) {
      const value = await this.run(f, ...args).catch(error => (/context|navigat/i.test(error.message) ? null : Promise.reject(error)));
      if (value) return value;
      if (Date.now() > end) {
        const text = await this.run(() => document.body.innerText.slice(0, 1500));
        throw new Error(`waited in vain for ${f} ${JSON.stringify(args)}; the page says:\n${text}\nerrors: ${this.errors.join('\n')}`);
      }
      await sleep(60);
    }
  }

  async key(name) {
    const code = { Enter: 13, Escape: 27, ArrowLeft: 37, ArrowUp: 38, ArrowRight: 39, ArrowDown: 40, Tab: 9 }[name];
    await this.send('Input.dispatchKeyEvent', { type: 'keyDown', key: name, code: name, windowsVirtualKeyCode: code, ...(name === 'Enter' ? { text: '\r' } : {}) });
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', key: name, code: name, windowsVirtualKeyCode: code });
  }

  async type(text) {
    await this.send('Input.insertText', { text });
  }

  /** The whole page as a PNG file. */
  async shot(file) {
    const size = await this.run(() => [document.documentElement.clientWidth, document.documentElement.scrollHeight]);
    const { data } = await this.send('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true,
      clip: { x: 0, y: 0, width: size[0], height: Math.min(size[1], 6000), scale: 1 } });
    writeFileSync(file, Buffer.from(data, 'base64'));
  }

  async close() {
    await this.browser.send('Target.closeTarget', { targetId: this.target });
  }
}
