// Browsers start no workers for pages from disk. There the search runs in a hidden frame, behind the same interface.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      document.body.appendChild(frame);
      this.frame = frame.contentWindow;
      const deliver = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.frame.postMessage = (data) => setTimeout(deliver, 0, data);
      this.frame.importScripts = (...urls) => Promise.all(urls.map((address) => this.load(address)));
      this.ready = this.load(url);
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.frame.document.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = reject;
        this.frame.document.body.appendChild(script);
      });
    }

    postMessage(data) {
      this.ready.then(() => this.frame.dispatchEvent(new this.frame.MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.frameElement.remove();
    }
  };
}
