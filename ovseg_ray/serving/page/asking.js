// One question at a time: while the server works, only the newest next question waits. Typing fast then costs no more
// than the server can answer, and what is shown is never older than what was shown before.

export class Asking {
  /**
   * @param {(question: any) => Promise<any>} ask
   * @param {(answer: any, question: any) => void} onAnswer
   * @param {(error: Error, question: any) => void} onError
   */
  constructor(ask, onAnswer, onError) {
    Object.assign(this, { ask, onAnswer, onError });
    this.next = undefined;
    this.busy = false;
    this.epoch = 0;
  }

  /** Ask this next, instead of what has been waiting. */
  want(question) {
    this.next = question;
    if (!this.busy) this.run();
  }

  /** Whatever is under way no longer matters. */
  drop() {
    this.next = undefined;
    this.epoch++;
  }

  async run() {
    this.busy = true;
    while (this.next !== undefined) {
      const question = this.next;
      const epoch = this.epoch;
      this.next = undefined;
      try {
        const answer = await this.ask(question);
        if (epoch === this.epoch) this.onAnswer(answer, question);
      } catch (error) {
        // a failure says nothing once something newer is asked
        if (epoch === this.epoch && this.next === undefined) this.onError(error, question);
      }
    }
    this.busy = false;
  }
}
