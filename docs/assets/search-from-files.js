/* Browsers start no web worker for a page that was opened from file://. The site's search runs in one:
   there, run the worker's script in a hidden frame and pass messages to and fro. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.importScripts = (...urls) => urls.reduce((last, next) => last.then(() => this.load(next)),
        Promise.resolve());
      inside.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      this.ready = this.load(url);
    }

    load(url) {
      const { document: page } = this.frame.contentWindow;
      return new Promise((loaded, failed) => {
        const script = page.createElement("script");
        Object.assign(script, { src: new URL(url, location), onload: loaded, onerror: failed });
        page.body.append(script);
      });
    }

    postMessage(data) {
      this.ready.then(() => {
        const inside = this.frame.contentWindow;
        inside.dispatchEvent(new inside.MessageEvent("message", { data }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
