/* The search runs in a worker, which browsers do not start for pages opened as files: there an iframe stands in for it.
   By the interface of squidfunk's iframe-worker, whose shim the offline plugin would fetch from the network. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      inside.postMessage = data => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      }
      inside.importScripts = (...urls) => urls.reduce(
        (before, each) => before.then(() => this.load(inside, new URL(each, url).href)), Promise.resolve())
      this.inside = inside
      this.ready = this.load(inside, url)
    }

    load(inside, url) {
      return new Promise((resolve, reject) => {
        const script = inside.document.createElement("script")
        script.src = url
        script.onload = resolve
        script.onerror = reject
        inside.document.body.append(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })))
    }

    terminate() {}
  }
}
